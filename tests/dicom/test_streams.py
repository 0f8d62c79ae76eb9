"""Compressed streams that no encoder of the test environment can write.

Made once with imagecodecs (`ljpeg_encode`, `htj2k_encode(reversible=True)`, `jpeg_encode(level=95,
bitspersample=12)`) from the image that `encoded_image` returns.
"""

from __future__ import annotations

import base64

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal


def encoded_image() -> np.ndarray:
    y, x = np.mgrid[:40, :48]
    return np.clip((x * 61 + y * 37) % 4096 + (x * y) % 7, 0, 4095).astype(np.uint16)


STREAMS = {
    uid.JPEGLosslessSV1: (
        "|JeV;02crO0RaI30000000000000051O^QM!vG5m04M-"
        "30RRyI|Jncu0RR97008Iz0N(F+yWQ^hd%fQ8ce~y0_j|qG?{~Z1?)Q7W-tTw2-"
        "R}2$z25J4yWQ^hd%fQ8ce~y0_j{#LMO9g36j4=HSp^hTRhB_T6;)-"
        "BQAJf*WE4?VR#^oURaLaAD6PpRnu;rONv5KT+>&XiqPHZPYACJACYp*Xa!ID5irki!MJ{Ia(@{&Ay)@KP=5I|k6u"
        "FzzO+_wd^wUvGnY}dBQs!^cscRQAdTLt5%-"
        "))ov2!=3rL0`d>8WcMGkR)T#mwHCma%g>RTR0K(@jM#X7tlhOPRei)KcbeO*Is`o6}82E@t%8QA?S>N}`I~l4+=-"
        "w<MZsD6PpRnu;rONv5KT+>&XiqPHZPYACJAX>COml1)2NMI@6>)KN(!)3p>*Ni^+66p~FlQAH$^PSjCJEh>sCs>>"
        "jvimI~6D59#YvI;1wt1N<wDyqvMqKc}r$S9(!t))>#Zb>xMQCpHtH569llTAexxg^t3MQ%wn)KOcKO*Ir&<g}_Ob"
        "2p}%id@a<rlOZKdTFSo%-))6DRVcbnu=V_>87HWGk%pzSh<_iQr0eJ^whPBnY}eFV&-"
        "p6OIW#^(^A$hX7tpxi<#1>rOe)%YAJI!rkaXe&FQA1mos{4sHM!_nrbO?H>R43T+RAb6jtPuO+^*CB-"
        "2qvZb>xMQCpHtH569llTAexxg^t3MQ%$=YAB?VY1)b@B${@jib*D&sG^cdr)nsql4;tCDI}V9qKZjrR8dt{Sp^hT"
        "RhB_T6;)-"
        "BQAJf*WE4?VR#^oURaKTjMHN+TDvB#|Nv5KT+>&XiqPHZPYACJACYp*Xa!ID5irkWEsG_$erBO?ny)@KP=5I|k6u"
        "FzzO+_wd^wUvGnY}dBQs!?>H59p<^r~9L%-"
        "))ov2!=3rL0`d>8WcMGkR)T#mwHCma%g;rlqW0&Xq+jX7tlhOPRei)KcbeO*Is`o6}82E@t%8QA?S<G}Kb&Z_=ou"
        "w<MZsD6PpRnu;rONv5KT+>&XiqPHZPYACJACYp*Xa#~waMI@6>)KN(!)3p>*Ni^+66p~FlQAH$^PSjCJB-"
        "6DNQcFsrimI~6D59#YvI;1wt1N<wDyqvMqKc}r$S9(!tg;Fys;g;KQCpHtH569llTAexxg^t3MQ%wn)KOcKO*Ir&"
        "<daQB6}c@cid@a<rlOZKdTFSo%-))6DRVcbnu=V_>87HWGkR&LrOe-@Qr0eJ^whPBnY}eFV&-"
        "p6OIW#^(^A$hX7tpxi<!MOEn?<$sws0frkaXe&FQA1mos{4sHM!_nrbO?H>R43T+QjGqL(v%l|>b~B-"
        "2qvZb>xMQCpHtH569llTAexxg^t3MQ%wn)KOcK(%OnCB${@jib*D&sG^cdr)nsql4;tCDI}V9qKZi-ov5OcT2&NP"
        "RhB_T6;)-"
        "BQAJf*WE4?VR#^oURaKTjMHN+LkWocdTS}se+>&XiqPHZPYACJACYp*Xa!ID5irkWEsG_$dnrbMm$!Szl=5I|k6u"
        "FzzO+_wd^wUvGnY}dBQs!?>H59p<(@jM#X8kIbv2!=3rL0`d>8WcMGkR)T#mwHCma%g;rlqW0&FQIY7c-"
        "?%OPRei)KcbeO*Is`o6}82E@t%8QA?S<G}Kb&Z%s86xtsK=D6PpRnu;rONv5KT+>&XiqPHZPYACJACYp*Xa!ID5i"
        "rv5?rL`1NNi^+66p~FlQAH$^PSjCJB-"
        "6DNQb{!JMHG@vJ5fh~N1#heqKc}r$S9(!tg;Fys;ex5iYlthAfk$@vdAc+s;sgKD5|SzR8d=!O*Ir&<daQB6}cqS"
        "QAKV^G}KXBl1()fR^*dSMK}dI1Cr9HrOe)%YAJI!rkaXe&FQA1mos{4sHM!_nrbO?H>R42+|Bw`En?<xO-"
        "oq0o6}O(E@t%9wTqd(H7#Q1Z%s>Bxtr5dfH$CG=0N}1"
    ),
    uid.HTJ2KLossless: (
        "|4;u>04YEK0000m0000e00000000000000m0000e0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0sm"
        "Y86Cj9?kdTm&kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00004l>h<%lfVEg08s$V_Vw?D<"
        "^sbs0KfnfKmZcJ01<$Vg8>V40P6q&bO0xF0KfnhkN^bm00h9WXhsVB0Hc4!9)|!RP5TsdlmNH@0X#JTzyKD^00C>"
        "j02Z(UssI60s8IR<Dr(RITK;X%-?21-YB`z!0^*Kx>g42<Y1cpxMle0k2kADhPdxzppltyJOy~mc@IVM3+dP-"
        "<{dUZ}0KfnjqQC$br$7J~qyR`%0TECj0Rh`lz-^#F0s=5vt|(D30099M1r!8Gz-"
        "wqhKmZP4r?qehk+7>n$K|5lTh1N^B)s9v`;l>pA3qp+I-LQ+fWcwFD0%Zl-abrP2!@7KP!&`KU<s;#iGVtY2(Ez$"
        "fHDo32q+K8N)<!-"
        "a03t$1VR8%L?8i<k^n(@6Jdk;+(UPlf%ULFZB&(!0w4;}>6KwL12SkBkZoyDVrzgAm*vK?WLXXdf&rbwN}rJf6g;"
        "rEeg1F&fiF^K#}EkxK-EX@TGOJs`??iW)&q{rr&tNU0l)w+y5Im8=rjNV{RPzo+9E(TfdIhcBy0mn>;V$C0VJT);"
        "S&fxLEsYzK&K<Z69Do8Af5ma;CKRg21w@u0C@%o0Ju&((u2e!0lE$t+Xe)#4FJTp0fB&y17!n%v;qLi1^~e0By0m"
        "n>;V$C0VDwUhaM%K^gz)AB0U5U5P$#x{{MQ&4*p;eN|qbHLaWa$3h@atsU~)9n64(j^?bio`YgKg{`Y)t2T^z5e@"
        "4QGYyR(VI&<yE?{AarIKCf^O=0i3B)Iy=ZxSzJV^y1IU6@L_IrT8z`W0V2G%Mt?sU~)9n64(iY2TjtG17&4cfEb@"
        "1`#6&6cY%F5d=!vxU4Lfr8X`r!@?vjOwz(6EdXc@0Dx@+0MHr$0B4wx$S_HyU_v6ptT~lbGpnjOl~h0=CQ1M%iU1"
        "}`07Ql(2xOQ*K!zg-WR#7|%5qt1<FWwYM}P%l1jIlA6hnXv9Hc-53ZNJTBybP`F;D=-"
        "5Fi6^0*U>(y#P|8d=yu(01IG%09ynA08l^x1-1YH39|_u^&x4Hb-"
        "4AuR4V=^x+O`M#%rO}sXYg}Usq7rxi~EE?Pq^PikZ7l&rivr2he&qII}_M-pM1opyHA*_NRF1I}V_^=sa1-"
        ")M4Vwbsv35T4Wt=J#Uo?y`1IL<0dy(K53Slk6#Cy=BUW)j6`W`j*7f)<R~Q>N+WWVlAI`umh_6!WOhU>TGA_$rEQ"
        "a>ZIh&JlcY^&M#6HFsZd%oBVoDI3l%356)q!GoJ^D?7M=7=V$o!05~Y)#Ni5tnN5Xu~QBm47N5Xu%k)xDkD2>QbN"
        ")q6I`}^ONg=@MN#p!IBSh%JO00FFj1|R?j_#&dIq~?+*Z$!(gQ>bmS1Err=?w;?tPu1R@bCO%`N%Dykip=)OJA<C"
        "gI)3NA^Xw0&_f53Bvwp2RQ+2vS`bb^*AtT8dR?kb4KXx0u^21vV-"
        "gy;1>7?e8CvQZ{)TdC}e`TLn?w;?tPu1R(Wq+y8CS4Ls`=nb3|Je"
    ),
    uid.JPEGExtended12Bit: (
        "|JeWF01!$>Nk#wx0RR9200961|JwjV00IF40RaI50RaI50s;a81OoyB0s;jD1Oo&H1qKEN1qKEN2MGuU2MGrT1_%"
        "oX2?`1d3JL}Y3k(Yi3<(Mf3je_X3k(1#05Aao5di<h02TlN0RaF200000000000000B4h{dr05lK)0RjUB1qTBJ0"
        "{{R3000010uclTApi#o3lake6fr>s2@@A5GEog8VGI^TaZ-Ws|Jncu0RaF2KLEvJ%csJ-utvf~^x+z`Lw^twNdxg"
        "u`~5u*T~-"
        "yyaG4WkF69+4p~NUXQ&(#}23<}S*m9{2BJL5+9Ff9`FdbUYL6=d5b{y>_LFK|22y)yYALC9{v(RPJ;arD1Nf`NZf"
        "&hj9@PK?*m2C7GbhuYx%A|E0xkor)4+tp1JsQ)``E=M=0EdxA&h82OA)ibc_zv{5(Ph<PU_nHRl-"
        "<G7@Su?dS)D(NJqBG?76hNzZ+8bysA5k9bh`%WXQ0ce!ooaB465zR0S;5D2(dqJDp}|<>F}^8#gVmL!o9GeI-rZS"
        "KNflnx?C&+T#i+D3e-"
        "$BI3uZ<Ez;A^xpeqf$%m0bZq)lB*qBfniGS|TMVD8FebXWzEfuBVT$oS}mrqMQ23=Ma^=gpRtF>3U8P5nE*flKl8"
        "Fd&});6*k^3g!FJ2WUI{@4Dj^ci&6SIF8(-kKVw8GwZblzTk}T`m>!6(fUohnzEx6f-"
        "hfww`^<sKUCl4<fbO05n50!+ZhCmU=9@yerGoA}HOc0pU)Q4CIGRIa%m3>aecuLgY8QVBt`~ggsq{R<qD$)L~uPc"
        "#<ck$u5|2NN!%*npx;F>9DVDJV_Xfwgto~q%jRqPF8vhx?C&E21oSSCa}bw8l02StvvgePla)29z}b)0BDAGgZK&"
        "OXQIoi!n?K8A}h<J`=L&e2S;?$&q0?}g>hiWex0P&909@8kn3ll%c;V-wDBY`ZtNEj;;>{jQ(HX-T|O1fr-"
        ">tabeg6V)(@8|3k3fF*HpfxQ{FZ7ufNb^?+1)eDoek|yZd$=*sOG&;8NFdURuS{Z&$nC?_1FJ_UqS;w}pY7x54i?"
        "?akRQR`ex~)4V&j-KOB7`%)LOCtZY<e0O;&??t>e<r3xX-L%zr*Pq*6lN<lp"
    ),
}


@pytest.fixture
def write_stream(tmp_path, write_dicom):
    def write(syntax: str, content: bytes):
        path = tmp_path / "a.dcm"
        write_dicom(path, encoded_image())
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([content])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        return path

    return write


@pytest.mark.parametrize("syntax", STREAMS, ids=lambda syntax: syntax.name)
def test_streams_of_every_jpeg_family_are_decoded(write_stream, syntax):
    path = write_stream(syntax, base64.b85decode(STREAMS[syntax]))
    _, codes = read_pixels(path)
    # 12-bit JPEG Extended is lossy; the others give every bit back.
    tolerance = 6 if syntax == uid.JPEGExtended12Bit else 0
    assert np.abs(codes.astype(int) - encoded_image()).max() <= tolerance


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.97])
@pytest.mark.parametrize("syntax", STREAMS, ids=lambda syntax: syntax.name)
def test_a_truncated_stream_is_refused_whatever_its_family(write_stream, syntax, kept):
    stream = base64.b85decode(STREAMS[syntax])
    path = write_stream(syntax, stream[: int(len(stream) * kept)])
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.DECODE


def test_left_aligned_pixels_in_a_compressed_stream_are_refused(write_stream):
    path = write_stream(uid.HTJ2KLossless, base64.b85decode(STREAMS[uid.HTJ2KLossless]))
    dataset = pydicom.dcmread(path)
    dataset.HighBit = 15
    dataset.save_as(path)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.BITS
